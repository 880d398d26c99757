"""What HistoPrep costs, as ratios against named baselines measured in the same run."""

"""From a manifest, a shard index or a latent set to batches: position -> sample, a pure
function.
"""

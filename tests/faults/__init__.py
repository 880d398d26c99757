"""Faults on purpose: kills, full disks, signals, dead workers; every one with a control that must
be caught.
"""

"""The engine: trains the stages of any recipe, keeps a run folder, and resumes exactly where it was
stopped.
"""

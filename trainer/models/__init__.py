"""Networks, in plain torch: denoisers, codecs, classifiers. None of them knows files,
configurations or the engine.
"""

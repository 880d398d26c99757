"""The local browser of `histoprep browse`: a data set as pages of tiles in a web browser.

`opening` turns what a user names (folder, manifest, shards) into a `TileSet`: columns in memory
(`columns`), findings by row (`findings`), and a reader of pixels (`pixels`). `query` filters and
sorts, `overview` counts, `points` places tiles in two dimensions, `decisions` keeps what was
decided. `server` answers requests that `security` lets through; the page is in `page/`.
"""

"""The recipes: where networks, diffusion and data meet; each is a module that fulfils
`trainer.stage.Recipe`.
"""

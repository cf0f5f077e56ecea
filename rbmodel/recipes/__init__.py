"""Training recipes: from samples with given labels to a trained network. None of them sees the truth.

All have the signature of `rbmodel.recipes.baseline.train_baseline`. ``oracle`` is not among them: it
is the study handing `train_baseline` the truth as its given labels.
"""

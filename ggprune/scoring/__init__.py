"""Which layers a model can do without: scores of single layers, and sets that go together.

activations, weights   what an importance matrix, and the weights alone, say of a layer
rows, measure          what a model does without a cut, token by token; computing it
cache                  the same, measured once
race                   which cuts are the lowest, by as few chunks as that takes
rank                   scores of all layers -> ranking (the data, and its order)
target                 how many layers are to go
search, choose         the best set of them -> choice (the data)
"""

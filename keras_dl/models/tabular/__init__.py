"""Models of columns of numbers: multilayer perceptrons, plain and residual."""

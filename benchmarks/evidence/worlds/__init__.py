"""The toy worlds: small enough that probabilities are exact and a training run takes a second."""

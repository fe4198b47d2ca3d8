"""Human and model: features for encoding models, localizers, representational similarity."""

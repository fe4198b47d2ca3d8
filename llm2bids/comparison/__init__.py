"""Human and model, model and model: features for encoding models, localizers, similarity."""

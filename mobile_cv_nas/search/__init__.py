"""Differentiable architecture search: train a supernet's weights and alphas, derive an arch near the target."""

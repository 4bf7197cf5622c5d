"""What networks are made of: choices, shapes, layers, blocks and heads."""

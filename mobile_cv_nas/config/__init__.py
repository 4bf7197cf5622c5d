"""The keys of a configuration, and how files and command lines set them."""

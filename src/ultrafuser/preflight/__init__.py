"""The check of a recipe before anything large is loaded: configurations, tokenizers and safetensors headers only."""

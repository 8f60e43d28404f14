"""Seeing what a fused model does: colours, the page of coloured tokens, coloured text for a terminal."""

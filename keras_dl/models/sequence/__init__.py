"""Models of sequences: recurrent and convolutional networks, translators, language models."""

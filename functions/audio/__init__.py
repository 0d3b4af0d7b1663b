"""Sound: converted, transcribed, and answered by a language model."""

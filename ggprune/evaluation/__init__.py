"""How good models are: what llama-perplexity reports, lm-eval's tasks, what they write."""

"""Plan what leaves, lay out what stays, stream its bytes, prove the result. No llama.cpp here."""

"""What users install: `make test-wheel` builds it and tries it far from the checkout."""

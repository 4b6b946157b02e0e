"""What a layer's position means to each architecture: facts as data, rules that use them."""

"""A mutation fuzzer of everything that reads files or texts in Python: `make fuzz`.

Inputs are derived from right ones by mutators that know their structure; whatever comes out, the
answer must be a result or an error of the project's own, soon, in little memory, with nothing left
behind. pytest does not collect what is here.
"""

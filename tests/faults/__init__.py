"""Faults of the system at every call that publishes something: what is there afterwards?"""

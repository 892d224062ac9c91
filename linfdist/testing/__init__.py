"""The faults that the tests inject, and the tools that inject them; the book lists them."""

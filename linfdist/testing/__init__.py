"""The faults that the tests inject, and how: for the tests and the book's page on faults."""

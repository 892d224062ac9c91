"""The paper's theory, executable: each theorem a construction or a bound, and a test."""

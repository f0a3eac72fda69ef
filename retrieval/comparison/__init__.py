"""Our features beside other people's: precision, size and time, what reductions and clusters cost, graded precision."""

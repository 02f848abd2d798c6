"""A robot's own recordings to a better student: steps that resume, a judgement without labels, a report card."""

"""The tables and figures of the paper that can be reproduced; imports nothing, since the parser reads it."""

PAPERS = ("table1", "table3", "table4", "table5", "figure1", "figure2", "figure3", "figure4")
OF_TRAINING = ("figure3", "figure4")  # figures that need no test split

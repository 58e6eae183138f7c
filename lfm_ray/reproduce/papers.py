"""The names of what can be reproduced of the paper; the parser reads them, so nothing else is imported here."""

PAPERS = ("table1", "table3", "table4", "table5", "figure1", "figure2", "figure3", "figure4")
OF_TRAINING = ("figure3", "figure4")  # figures that need no test split

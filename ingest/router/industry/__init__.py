"""The industry that a document is about: a section of ISIC Rev. 4, or one of the operator's own labels."""

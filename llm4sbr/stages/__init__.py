"""One module per stage; each reads the folders of earlier stages and writes its own."""

"""The steps that bring a dataset into the shapes other tools read: samples with their side, shards, folders."""

"""The steps that export a dataset in formats that other tools read: samples with their split, shards, folders."""

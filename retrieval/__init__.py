"""What happens to vectors: load an exported extractor, index a catalogue, search it, measure it."""

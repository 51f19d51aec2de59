"""Which weights make up for the channels that are gone."""

"""The steps of Reelmill, one folder per flow, and what they share: manifests, caching, video, rendered footage."""

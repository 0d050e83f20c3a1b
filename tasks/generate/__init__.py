"""The steps of generation, in order: jobs (what is asked), sample (latents), decode (videos and their measurements),
outputs (one table) and gallery (one page)."""

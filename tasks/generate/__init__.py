"""The steps of generation, in order: jobs (what is asked), sample (latents), decode (frames and their
measurements), encode (videos), choose (the best takes), outputs (one table) and gallery (one page)."""

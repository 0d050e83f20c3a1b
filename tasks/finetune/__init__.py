"""Finetuning: clips to latents, latents to a model or a LoRA."""

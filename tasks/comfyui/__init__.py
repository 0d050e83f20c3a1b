"""ComfyUI's workflows, as its editor writes them: nodes, links, and what they ask."""

"""lfm_ray: finds training strategies for imbalanced multimodal classification, on Ray."""

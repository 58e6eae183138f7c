"""`python -m lfm_ray COMMAND`, which is `lfm-ray COMMAND`."""

from lfm_ray.main import main

if __name__ == "__main__":
    main("python -m lfm_ray")

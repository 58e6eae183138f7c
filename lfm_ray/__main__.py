"""`python -m lfm_ray COMMAND`, which is `lfm-ray COMMAND`."""

from lfm_ray.interruption import end_while_starting

if __name__ == "__main__":
    end_while_starting()

from lfm_ray.main import main  # a signal may come while it is imported

if __name__ == "__main__":
    main("python -m lfm_ray")

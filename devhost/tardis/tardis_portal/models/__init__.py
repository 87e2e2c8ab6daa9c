"""All models of the host under one name."""

from ..flavour import TYPED
from .access_control import UserAuthentication, UserProfile
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
    "Instrument",
    "InstrumentParameter",
    "InstrumentParameterSet",
    "JTI",
    "License",
    "ParameterName",
    "Schema",
    "StorageBox",
    "StorageBoxAttribute",
    "StorageBoxOption",
    "UserAuthentication",
    "UserProfile",
]

if TYPED:
    from .typed_acl import DatafileACL, DatasetACL, ExperimentACL, GroupAdmin, Token

    __all__ += ["DatafileACL", "DatasetACL", "ExperimentACL", "GroupAdmin", "Token"]
else:
    from .object_acl import GroupAdmin, ObjectACL

    __all__ += ["GroupAdmin", "ObjectACL"]

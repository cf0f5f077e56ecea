#!/bin/sh
# An emulated Tomo-e night through both references, into one store: emulate, reference, inject, look.
#
#     sh docs/tomoe_night.sh FOLDER        12 sensors x 4 exposures
#     SENSORS=111,234 EXPOSURES=2 sh docs/tomoe_night.sh FOLDER
#
# Needs 9 MB per sensor and exposure, and as much for every earlier epoch.
set -eu
folder=${1:?give a folder to make}
sensors=${SENSORS:-111,112,113,121,222,223,224,331,332,411,412,443}
rbsim=${RBSIM:-rbsim}
workers=${WORKERS:-2}

$rbsim emulate --out "$folder/night" --mode all-sky --exposures "${EXPOSURES:-4}" --sensors "$sensors" \
    --condition "${CONDITION:-dark}" --seed "${SEED:-1}" --workers "$workers"

# Tomo-e's own reference: the earlier epochs of each sensor. PS1's is in night/ps1, on the sensors' pixels.
mkdir -p "$folder/tomoe"
for sensor in $(echo "$sensors" | tr , ' '); do
    quadrant=${sensor%??}
    chip=${sensor#?}
    $rbsim reference stack "$folder/night/epochs/sTMQ$quadrant"*"$chip.fits" --out "$folder/tomoe/$sensor.fits"
done

$rbsim inject "$folder/night/science" --reference "ps1=$folder/night/ps1" --reference "tomoe=$folder/tomoe" \
    --truth "$folder/night/truth.ecsv" --out "$folder/paired.zarr" --workers "$workers"
$rbsim verify "$folder/paired.zarr"

#!/bin/sh
# Passes a classifier's result on to the PACS only when Triggerscope releases the film that it is about.
#
#   release.sh FILM_SOP_INSTANCE_UID RESULT.dcm
#
# TRIGGERSCOPE_URL     http://triggerscope.example:8000
# TRIGGERSCOPE_HEADER  a file that holds the line "Authorization: Bearer ts_...", with a key of scope releases:read
# PACS_AE PACS_HOST PACS_PORT  where results go
#
# Ends with 0 when the PACS has taken the result, and with 75 when it is held. Everything but a clear "release" holds it:
# another answer, an error, silence, no network. Ask again later; a reader may dismiss what was flagged.
set -u
case $1 in
   ''|*[!0-9.]*) echo 'held: not a SOP Instance UID' >&2; exit 75 ;;
esac
answer=$(curl --fail --silent --max-time 60 --header @"$TRIGGERSCOPE_HEADER" --header 'Content-Type: application/json' \
   --data "{\"sop_instance_uid\": \"$1\"}" "$TRIGGERSCOPE_URL/v1/releases") || answer='no answer'
case $answer in
   *'"decision":"release"'*) exec storescu -aec "$PACS_AE" -xs -R "$PACS_HOST" "$PACS_PORT" "$2" ;;
   *) echo "held: $answer" >&2; exit 75 ;;
esac

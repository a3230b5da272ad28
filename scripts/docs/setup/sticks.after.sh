# What the page promises has come about: the bundle is on trial, calls arrived, the way back is there.
tidegate status | grep "trial.* 2 of"
tidectl fleet export --store fleet.db | grep -c '"status"'
ls /media/stick/tide/ack/*.tideack

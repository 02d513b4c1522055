{{/* Checks that a schema can't express. Each fails with one sentence that names the value. */}}

{{- define "warmstart.check" -}}
{{- include "warmstart.checkConfig" . -}}
{{- include "warmstart.checkOrigins" . -}}
{{- include "warmstart.checkDisks" . -}}
{{- include "warmstart.checkCluster" . -}}
{{- include "warmstart.checkNetwork" . -}}
{{- if and .Values.test.object (not (regexMatch "^[^/]+/.+" .Values.test.object)) -}}
{{- fail (printf "test.object: %q is not an object; write bucket/key" .Values.test.object) -}}
{{- end -}}
{{- end -}}

{{- define "warmstart.checkConfig" -}}
{{- $theirs := dict "listen" "service.port" "tls" "tls.existingSecret" "cluster" "cluster.enabled, .secret, .zone and redis" -}}
{{- range $key, $value := $theirs -}}
{{- if hasKey $.Values.config $key -}}
{{- fail (printf "config.%s: is set by the chart; set %s instead" $key $value) -}}
{{- end -}}
{{- end -}}
{{- if hasKey (default dict .Values.config.cache) "disks" -}}
{{- fail "config.cache.disks: is set by the chart; set cache.disks instead" -}}
{{- end -}}
{{- if hasKey (default dict .Values.config.limits) "drain_timeout" -}}
{{- fail "config.limits.drain_timeout: is set by the chart; set drainSeconds, which also sets the pod's grace period" -}}
{{- end -}}
{{- if not .Values.config.auth -}}
{{- fail "config.auth: is missing, but the gateway listens on the whole pod network; to serve anybody who can connect, write none" -}}
{{- end -}}
{{- end -}}

{{- define "warmstart.checkOrigins" -}}
{{- $origins := include "warmstart.origins" . | fromYaml -}}
{{- $known := keys $origins | sortAlpha | join ", " -}}
{{- range $name, $origin := $origins -}}
{{- range $key := list "access_key_id" "secret_access_key" "session_token" -}}
{{- if hasKey $origin $key -}}
{{- fail (printf "config.origins.%s.%s: would be readable in the ConfigMap; set credentials.%s.%s" $name $key $name $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $name, $rule := .Values.config.buckets -}}
{{- if not (hasKey $origins (toString $rule.origin)) -}}
{{- fail (printf "config.buckets.%s.origin: %q is not one of config.origins; write one of: %s" $name (toString $rule.origin) $known) -}}
{{- end -}}
{{- end -}}
{{- if and (gt (len $origins) 1) (not .Values.config.buckets) -}}
{{- fail (printf "config.buckets: is empty, but there are several origins (%s); name the origin of each bucket, or write \"*\": {origin: ...}" $known) -}}
{{- end -}}
{{- range $name, $keys := .Values.credentials -}}
{{- if not (hasKey $origins $name) -}}
{{- fail (printf "credentials.%s: is not one of config.origins; write one of: %s" $name $known) -}}
{{- end -}}
{{- if or (not (regexMatch "^[a-z0-9][a-z0-9_.-]*$" $name)) (contains "__" $name) -}}
{{- fail (printf "credentials.%s: can't be part of a variable's name; give the origin a name in lower case, without __" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "warmstart.checkDisks" -}}
{{- $system := list "/" "/bin" "/boot" "/dev" "/etc" "/home" "/lib" "/mnt" "/opt" "/proc" "/root" "/run" "/sbin" "/sys" "/tmp" "/usr" "/var" "/var/cache" "/var/lib" "/var/lib/kubelet" "/var/log" "/var/run" -}}
{{- $seen := dict -}}
{{- range $index, $disk := .Values.cache.disks -}}
{{- $key := printf "cache.disks[%d]" $index -}}
{{- $size := toString (default "" $disk.size) -}}
{{- if not (regexMatch "^\\s*[0-9]+(\\.[0-9]+)?\\s*([kKmMgGtTpP]([bB]|[iI][bB]?))\\s*$" $size) -}}
{{- fail (printf "%s.size: %q is not a size; write a number and its unit, such as 500GiB or 500GB" $key $size) -}}
{{- end -}}
{{- if eq (empty $disk.hostPath) (empty $disk.volume) -}}
{{- fail (printf "%s: needs either hostPath or volume; set exactly one of them" $key) -}}
{{- end -}}
{{- with $disk.hostPath -}}
{{- $path := clean . -}}
{{- if not (isAbs .) -}}
{{- fail (printf "%s.hostPath: %q is not an absolute path; write a directory for the cache alone, such as /var/lib/warmstart" $key .) -}}
{{- end -}}
{{- if has $path $system -}}
{{- fail (printf "%s.hostPath: %q is a system directory of the node; write a directory for the cache alone, such as /var/lib/warmstart" $key .) -}}
{{- end -}}
{{- if hasKey $seen $path -}}
{{- fail (printf "%s.hostPath: %q is listed twice; give each disk its own directory" $key .) -}}
{{- end -}}
{{- $_ := set $seen $path true -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "warmstart.checkCluster" -}}
{{- $redis := .Values.redis -}}
{{- if and $redis.enabled (or $redis.url $redis.existingSecret) -}}
{{- $other := ternary "redis.url" "redis.existingSecret" (ne $redis.url "") -}}
{{- fail (printf "redis.enabled: is true, but %s is also set; use either this release's Redis or your own" $other) -}}
{{- end -}}
{{- if and $redis.url $redis.existingSecret -}}
{{- fail "redis.url: is set together with redis.existingSecret; keep one of them" -}}
{{- end -}}
{{- if and (not .Values.cluster.enabled) (or $redis.enabled $redis.url $redis.existingSecret) -}}
{{- fail "cluster.enabled: is false, so nothing would use Redis; enable the cluster or remove the redis values" -}}
{{- end -}}
{{- if and $redis.url (not (regexMatch "^rediss?(\\+sentinel)?://[^/]+" $redis.url)) -}}
{{- fail "redis.url: is not a Redis URL; write redis://host:6379/0, rediss://... for TLS, or redis+sentinel://host:26379,.../master/0" -}}
{{- end -}}
{{- if and $redis.password (not (regexMatch "^[A-Za-z0-9._~-]+$" $redis.password)) -}}
{{- fail "redis.password: has characters that URLs and redis.conf treat differently; use only letters, digits and . _ ~ -" -}}
{{- end -}}
{{- if and .Values.cluster.secret .Values.cluster.existingSecret -}}
{{- fail "cluster.secret: is set together with cluster.existingSecret; keep one of them" -}}
{{- end -}}
{{- $secrets := ternary (list .Values.cluster.secret) .Values.cluster.secret (kindIs "string" .Values.cluster.secret) -}}
{{- range $secrets -}}
{{- if and . (lt (len .) 16) -}}
{{- fail "cluster.secret: is shorter than 16 characters; write a longer random one" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.cluster.zone .Values.cluster.zoneLabel -}}
{{- fail "cluster.zone: is set together with cluster.zoneLabel; keep one of them" -}}
{{- end -}}
{{- end -}}

{{- define "warmstart.checkNetwork" -}}
{{- if eq (int .Values.service.port) (int .Values.service.controlPort) -}}
{{- fail (printf "service.controlPort: %d is also service.port; choose another port" (int .Values.service.port)) -}}
{{- end -}}
{{- if and .Values.hostNetwork .Values.hostPort.enabled -}}
{{- fail "hostPort.enabled: is true, but hostNetwork already opens service.port on the node; keep one of them" -}}
{{- end -}}
{{- if and .Values.tls.ca (not .Values.tls.existingSecret) -}}
{{- fail "tls.ca: is a key in tls.existingSecret, which is empty; set both" -}}
{{- end -}}
{{- end -}}
